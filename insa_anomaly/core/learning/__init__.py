"""What training shares: parameters, isolation forests, assessment, challenge."""
