from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

import bigm
import wordcount
from example_programs import refuses, run_example

PIPELINE = r"cat * | tr -cs A-Za-z '\n' | tr A-Z a-z | grep . | LC_ALL=C sort | uniq -c"


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Texts with all sorts of gaps between words; none at the very end."""
    draw = random.Random(3)
    letters = "etaoinshrdluETAOIN"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(5000)]
    gaps = [" ", "\n", "  ", ", ", "'", "-", " 42 ", "\t", ".\r\n"]
    for name in "abc":
        text = "".join(draw.choice(words) + draw.choice(gaps) for _ in range(20_000))
        (tmp_path / f"{name}.txt").write_text(text + ("end" if name == "c" else "\n"))
    (tmp_path / "empty.txt").touch()
    return sorted(tmp_path.iterdir())


def by_shell(folder: Path) -> dict[str, int]:
    shown = subprocess.run(PIPELINE, shell=True, cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return {word: int(n) for n, word in map(str.split, shown.stdout.splitlines())}


def counts(stdout: str) -> dict[str, int]:
    lines = [line.split() for line in stdout.splitlines()]
    found = {word: int(n) for n, word in lines}
    assert len(found) == len(lines), "a word is printed twice"
    return found


def started(cluster: bigm.Cluster, n: int = 3) -> list[bigm.Machine]:
    machines = cluster.start(n, services={"Words": wordcount.Words()})
    cluster.wait(machines)
    return machines


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_it_counts_what_sort_and_uniq_count(system: str, texts: list[Path]):
    shown = run_example("wordcount", "--top", "0", *texts, system=system, nmach=3)
    assert by_shell(texts[0].parent) == counts(shown.stdout)


def test_the_most_frequent_words_come_first(texts: list[Path]):
    shown = run_example("wordcount", "--top", "7", *texts)
    ordered = sorted(by_shell(texts[0].parent).items(), key=lambda each: (-each[1], each[0]))
    assert ordered[:7] == list(counts(shown.stdout).items())
    size = sum(text.stat().st_size for text in texts)
    assert f"mapping {size:,} bytes of text on 2 machines" in shown.stderr


def test_hashes_of_words_differ_from_process_to_process_and_counts_do_not(texts: list[Path], monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    shown = run_example("wordcount", "--top", "0", *texts, nmach=4)
    assert by_shell(texts[0].parent) == counts(shown.stdout)


def test_pieces_and_batches_of_any_size_and_a_full_memory_change_nothing(
    cluster: bigm.Cluster, texts: list[Path], monkeypatch
):
    """Where machines are processes they have sizes of their own: there the driver's pieces alone are small."""
    for name, value in {"PIECE": 1009, "DISTINCT": 100, "BATCH": 7}.items():
        monkeypatch.setattr(wordcount, name, value)
    assert by_shell(texts[0].parent) == dict(wordcount.count(started(cluster), texts))


def test_letters_are_those_of_any_alphabet_and_no_character_is_cut(cluster: bigm.Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(wordcount, "PIECE", 16)
    text = tmp_path / "text"
    text.write_bytes(("Größe größe, 山川 Ωμέγα; naïve_x2y " * 50).encode() + b"\xff\xfe caf\xe9")
    expected = {"größe": 100, "山川": 50, "ωμέγα": 50, "naïve": 50, "x": 50, "y": 50, "caf": 1}
    assert expected == dict(wordcount.count(started(cluster, 2), [text]))


def test_what_is_no_text_is_refused_before_it_fills_the_memory(cluster: bigm.Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(wordcount, "PIECE", 1000)
    monkeypatch.setattr(wordcount, "LONGEST", 5000)
    path = tmp_path / "core"
    path.write_bytes(b"\xff" * 100_000)
    with pytest.raises(ValueError, match="core has a word of more than"):
        list(wordcount.count(started(cluster, 2), [path]))


def test_a_machine_killed_in_the_middle_of_the_shuffle_fails_the_count_at_once(
    cluster: bigm.Cluster, faults, tmp_path: Path
):
    """What is still to come of each part is more than streams hold."""
    draw, letters = random.Random(5), str.maketrans("0123456789", "ghijklmnop")
    words = (draw.randbytes(1000).hex().translate(letters) for _ in range(20_000))
    (tmp_path / "long").write_text("\n".join(words))
    machines = started(cluster)
    counted = wordcount.count(machines, [tmp_path / "long"])
    next(counted)
    faults.kill(machines[1])
    with pytest.raises((bigm.ServiceError, bigm.MachineStopped)) as error:
        list(counted)
    assert "MachineStopped" in repr(error.value), "whoever reads from it first, another machine or the driver, tells"
    assert f"{machines[1].addr} stopped: its agent is gone" in str(error.value)


def test_a_machine_killed_while_it_maps_fails_the_count_at_once(cluster: bigm.Cluster, faults, tmp_path: Path):
    """The text has no end, so that the others would never have done."""
    machines = started(cluster)
    dealt: list[int] = []

    def endless():
        while True:
            if len(dealt) == 20:
                faults.kill(machines[0])
            dealt.append(1)
            yield b"again and again "

    deal = wordcount.Deal(endless(), 0)
    with pytest.raises(bigm.MachineStopped, match="m0"):
        wordcount.mapped(machines, deal)


def test_mistakes_are_told_before_anything_is_started(tmp_path: Path):
    assert "cannot read gone.txt: No such file or directory" in refuses("wordcount", "gone.txt")
    assert f"cannot read {tmp_path}: Is a directory" in refuses("wordcount", tmp_path)
    assert "'-1' is no whole number from 0" in refuses("wordcount", "--top=-1", os.devnull)
