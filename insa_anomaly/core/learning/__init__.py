"""Parts of training that series and devices share: parameters, forests, assessment, challenge."""
