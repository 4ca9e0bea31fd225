PRAGMA application_id = 1447839537;
PRAGMA user_version = 1;
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, hash BLOB NOT NULL,
    shown TEXT NOT NULL, origin TEXT NOT NULL, created INTEGER NOT NULL,
    revoked INTEGER, last_used INTEGER, models TEXT, max_class INTEGER NOT NULL,
    rpm INTEGER, tpm INTEGER, concurrency INTEGER, budget REAL, expires INTEGER) STRICT;
CREATE UNIQUE INDEX live_names ON keys (name) WHERE revoked IS NULL;
CREATE UNIQUE INDEX live_hashes ON keys (hash) WHERE revoked IS NULL;
CREATE TABLE usage (
    day TEXT NOT NULL, key INTEGER NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL, prompt INTEGER NOT NULL,
    cached INTEGER NOT NULL, generated INTEGER NOT NULL, gpu_seconds REAL NOT NULL,
    cost REAL, PRIMARY KEY (day, key, model)) STRICT, WITHOUT ROWID;
INSERT INTO keys VALUES (7, 'ada', x'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    'vc-abcd', 'created', 1767225600, NULL, 1767225660, '["chat"]', 0, 60, 100000, 4, 50.0, 1798761600);
INSERT INTO usage VALUES ('2026-01-01', 7, 'chat', 2, 1, 30, 10, 20, 1.5, 0.25);
