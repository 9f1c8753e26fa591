"""Texts that would like to be more than texts: SQL, formats, paths, patterns, commands to a terminal."""

PRINTABLE = (
    "'; DROP TABLE pf_runs; --",
    '"; DELETE FROM pf_events; --',
    "' OR '1'='1",
    "') ON CONFLICT DO NOTHING; UPDATE pf_runs SET status='failed'--",
    "1; ATTACH DATABASE '/tmp/x' AS x",
    "' UNION SELECT input FROM pf_runs --",
    "$$; SELECT pg_sleep(9); $$",
    "\\'; DROP TABLE pf_checkpoints; --",
    "%s %(p_run)s %d %% %",
    ":p_run ? $1 {run_id} {0}",
    "$.input",
    '$."a"[0]',
    '{"$t": "path", "v": "/etc/passwd"}',
    "_%",
    "`x` [y] /* z */",
    "NULL",
    "Ωσ\N{PILE OF POO}٣",
    "*\\?[a-z]",
    "a" * 200,
)
HALF = "\ud800"  # of a surrogate pair, which has no form in UTF-8
# No name, but they may stand in what is not checked: in what a program writes through WorkflowDB.
UNPRINTABLE = ("a\0b", "\0", HALF, "a\r\nPUBLISH pocoflow:done x", "\x1b[2J", "\u202e", "x" * 100_000)
