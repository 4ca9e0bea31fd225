PRAGMA application_id = 1447838513;
PRAGMA user_version = 2;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, level TEXT NOT NULL, subject TEXT NOT NULL,
    text TEXT NOT NULL, failure TEXT) STRICT;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, uid INTEGER, user TEXT, pid INTEGER,
    client TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL,
    outcome TEXT NOT NULL, seconds REAL NOT NULL) STRICT;
CREATE TABLE revisions (
    model TEXT NOT NULL, number INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    at TEXT NOT NULL, config TEXT NOT NULL,
    PRIMARY KEY (model, number)) STRICT, WITHOUT ROWID;
INSERT INTO events VALUES (7, '2026-01-01T00:00:00.000Z', 'ok', 'a-1', 'ready', NULL);
INSERT INTO audit VALUES (3, '2026-01-01T00:00:00.000Z', 1000, 'ada', 42, 'vllm-console/0.1.0 load',
    'load', '{"model":"a"}', 'ok', 0.25);
INSERT INTO revisions VALUES ('a', 1, 'f00d', '2026-01-01T00:00:00.000Z', '{"name":"a"}');
CREATE TABLE layout (id INTEGER PRIMARY KEY, columns TEXT NOT NULL) STRICT;
CREATE TABLE line (
    id INTEGER PRIMARY KEY, subject TEXT NOT NULL, born INTEGER NOT NULL,
    layout INTEGER NOT NULL, origin TEXT NOT NULL) STRICT;
CREATE TABLE head (k INTEGER PRIMARY KEY, rows BLOB NOT NULL) STRICT;
CREATE TABLE chunk (
    k INTEGER PRIMARY KEY, layout INTEGER NOT NULL, rows BLOB NOT NULL) STRICT;
