-- The smallest interval between starts is looked for among the last 128 of a host instead of the last 16: a page that takes long is
-- recorded after many that started after it.
DO $$
DECLARE
    noted text := pg_get_functiondef('note_contacts'::regproc);
BEGIN
    IF strpos(noted, '[1:16]') = 0 THEN
        RAISE EXCEPTION 'note_contacts keeps another number of starts than 16';
    END IF;
    EXECUTE replace(noted, '[1:16]', '[1:128]');
END
$$;
