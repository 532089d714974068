-- A message that nothing can be read from is one row however often it comes: after a crash the broker says again what it is not sure of,
-- and some devices never tire. Its key is what it is, not when it came.

ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_pkey;
ALTER TABLE dead_letters
    ADD COLUMN digest bytea,
    ADD COLUMN last_received timestamptz,
    ADD COLUMN times bigint NOT NULL DEFAULT 1;
UPDATE dead_letters SET digest = sha256(convert_to(topic, 'UTF8') || '\x00'::bytea || payload), last_received = received;
UPDATE dead_letters d
SET times = of_one.times, last_received = of_one.last_received
FROM (SELECT digest, count(*) AS times, max(received) AS last_received FROM dead_letters GROUP BY digest) AS of_one
WHERE of_one.digest = d.digest;
DELETE FROM dead_letters d USING dead_letters earlier
WHERE earlier.digest = d.digest AND (earlier.received, earlier.log_id) < (d.received, d.log_id);
ALTER TABLE dead_letters ADD PRIMARY KEY (digest), ALTER COLUMN last_received SET NOT NULL;

COMMENT ON COLUMN dead_letters.digest IS 'SHA-256 of topic, a zero byte and payload';
COMMENT ON COLUMN dead_letters.received IS 'When it came first';
COMMENT ON COLUMN dead_letters.times IS 'How often it came, what the broker said again included';
