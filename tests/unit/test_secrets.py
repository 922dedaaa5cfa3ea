"""Nothing secret and nothing of one machine is in the tree (CS-P0-02, D8): every file that is or would be committed is read.

A scan that finds nothing proves nothing, so each rule also finds what is planted for it, and lets pass what only looks like it.
"""

import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
ENTROPY_BITS_MIN = 3.2
"""Per character. English words and identifiers of this length stay below; 16 random letters and digits are above in all but rare cases."""


def is_random(text: str) -> bool:
    """Letters and digits mixed as no name is: what a generator makes, not what a person reads."""
    entropy = -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
    return entropy >= ENTROPY_BITS_MIN and any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def anything(text: str) -> bool:
    return True


def is_real_host(text: str) -> bool:
    """Not one of the names that RFC 2606 keeps for examples."""
    return re.search(r"(?:\.|^)(?:example(?:\.\w+)?|test|invalid|localhost)(?::\d+)?$", text) is None


class Rule(Struct, frozen=True):
    """What must not be in the tree. Where the pattern has a group, `suspect` decides about its text."""

    name: str
    pattern: re.Pattern[str]
    suspect: Callable[[str], bool] = anything


_NAMED_LIKE_ONE = r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?)"
RULES = (
    Rule("private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")),
    Rule("cloud access key", re.compile(r"\b(?:AKIA|ASIA|AROA)[0-9A-Z]{16}\b")),
    Rule(
        "provider token",
        re.compile(r"\b(?:gh[pousr]_\w{36}|glpat-[\w-]{20}|xox[abprs]-[\w-]{10}|[sr]k_live_\w{16}|AIza[\w-]{35}|pypi-\w{16})"),
    ),
    Rule("web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.")),
    Rule("bearer token", re.compile(r"(?i)\bbearer[ :=\"']+([\w.~+/-]{20,})"), is_random),
    Rule("basic credentials", re.compile(r"(?i)\bbasic ([a-z0-9+/]{16,}={0,2})"), is_random),
    Rule(
        "secret with a value",
        re.compile(rf"(?i){_NAMED_LIKE_ONE}\w*[\"']?\s*(?::[^=\n]{{0,20}})?[:=]\s*[\"']?([\w+/.=-]{{16,}})"),
        is_random,
    ),
    Rule("password in a URL", re.compile(r"[a-z]://[^\s/:@\"'{<]+:[^\s/@\"'{<]+@")),
    Rule("path of one machine", re.compile(r"(?<![\w.~<>/-])/(?:root|work|Users/\w+|home/\w+)(?=[/\s\"'`:,;)\]]|$)", re.MULTILINE)),
    Rule("package registry of one machine", re.compile(r"(?i)(?:index[-_]url|trusted[-_]host|find[-_]links|PIP[_]INDEX)")),
    Rule("mirror", re.compile(r"(?i)https?://([^\s/\"']*(?:artifactory|nexus|devpi|jfrog|mirror)[^\s/\"']*)"), is_real_host),
)

# Put together here, so that this file passes its own scan.
PLANTED = {
    "private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "cloud access key": "id = " + "AKIA" + "Q3EGTZ7WJ2NMFHB5",
    "provider token": "gh" + "p_" + "a8Fk20dLqPz7" * 3,
    "web token": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl",
    "bearer token": "Authorization: Bea" + "rer 9fJ2kLx83HqWmZ7RtYv0",
    "basic credentials": "Authorization: Ba" + "sic dXNlcjE6czNjcjN0cGFzcw==",
    "secret with a value": "DB_PASS" + 'WORD: str = "kT9vQ2xL7mZ4pR8w"',
    "password in a URL": "postgres" + "://admin:hunter2@db.example.org/orders",
    "path of one machine": "open('/ho" + "me/maria/orders.csv')",
    "package registry of one machine": "--index" + "-url http://10.0.0.7/simple",
    "mirror": "https://pypi-mir" + "ror.corp.io/simple",
}
INNOCENT = (
    'password = ""',
    "token = os.environ['ORDERFLOW_TOKEN_OF_THE_CARRIER']",
    "key: Idempotency-Key of the caller, never a secret: checkout-17",
    "secret_access_key = settings.secret_access_key_of_the_bucket",
    "the demo profile needs no token and takes ids chosen by the caller",
    "com.google.re2j:re2j:1.8 7b52c72156dd7f98b3237a5b35c1d34fba381b21048c89208913ad80a45dfbd7 114335",
    "http://127.0.0.1:8080/api/v1/orders",
    "see docs/work/ and the root of the repository",
    "~/.local/share/orderflow",
    "WORKDIR /var/lib/orderflow",
    "ORDERFLOW_MAVEN_URL=https://mir" + "ror.example.org/maven2",
)


def findings(files: Iterable[Path]) -> Iterator[tuple[str, Path, int]]:
    """(rule, file, line) of everything that must not be there. Files that are no text are searched as far as they are."""
    for file in files:
        text = file.read_bytes().decode(errors="replace")
        for rule in RULES:
            for match in rule.pattern.finditer(text):
                if rule.suspect(match[1] if rule.pattern.groups else match[0]):
                    yield rule.name, file, text.count("\n", 0, match.start()) + 1


def test_the_tree_holds_no_secret_and_nothing_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {ROOT / name for name in listed.stdout.split("\0") if name}
    assert len(files) > 100, "the whole tree is searched"
    found = [f"{rule}: {file.relative_to(ROOT)}:{line}" for rule, file, line in findings(sorted(filter(Path.is_file, files)))]
    assert not found


def test_every_rule_has_something_planted_for_it() -> None:
    assert [rule.name for rule in RULES] == list(PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_where_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.py"
    file.write_text(f'"""Fine."""\n\n# {PLANTED[name]}\nX = 1\n')
    assert (name, file, 3) in set(findings([file]))


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_like_it_is_let_pass(text: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text(text)
    assert list(findings([file])) == []


def test_a_secret_in_a_file_that_is_no_text_is_found(tmp_path: Path) -> None:
    file = tmp_path / "store.bin"
    file.write_bytes(b"\x00\xff\xfe" + PLANTED["cloud access key"].encode() + b"\x00")
    assert [rule for rule, _, _ in findings([file])] == ["cloud access key"]
