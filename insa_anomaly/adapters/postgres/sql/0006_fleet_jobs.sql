-- Trainings of many series at once: their device is a pattern, and their outcome says how far they are.
ALTER TABLE training_jobs DROP CONSTRAINT training_jobs_kind_check;
ALTER TABLE training_jobs ADD CONSTRAINT training_jobs_kind_check CHECK (kind IN ('train', 'retrain', 'fleet'));
