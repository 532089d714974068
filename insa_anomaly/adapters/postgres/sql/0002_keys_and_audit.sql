-- Who may use the admin API, and what was changed through it.

-- The way back from `instant`.
CREATE FUNCTION microseconds(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (extract(epoch FROM at) * 1000000)::bigint;


-- A key is known by its id; of the key itself only a digest is kept, which is enough since it is 256 bits of chance.
CREATE TABLE api_keys (
    id text PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    permissions text[] NOT NULL CHECK (permissions <@ ARRAY['ml:read', 'ml:write', 'telemetry:write', 'admin']),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    predictions_a_minute integer
);


CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    origin text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb
);

CREATE INDEX idx_audit_log_at ON audit_log (at);

COMMENT ON TABLE audit_log IS 'Written before the change it tells of; append-only, but for what is older than two years';

-- The owner's own rights are taken away too, and the trigger holds for a superuser, whom rights do not bind.
REVOKE UPDATE, TRUNCATE ON audit_log FROM PUBLIC, CURRENT_USER;

CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - interval '2 years' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_audit();
CREATE TRIGGER audit_log_is_not_emptied BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_append_only;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_not_emptied;
