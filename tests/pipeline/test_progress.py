"""What a person sees while a run goes on."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import curve, followed, log


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    """Make the console a terminal, or a file; what it shows."""

    def use(terminal: bool, encoding: str = "utf-8") -> io.StringIO:
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=terminal, width=120, highlight=False, legacy_windows=False)
        monkeypatch.setattr(type(console), "encoding", property(lambda _: encoding))
        monkeypatch.setattr(progress, "console", console)
        return shown

    return use


def last_frame(shown: io.StringIO) -> list[str]:
    """The bars as they stood at the end, without colours."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\x00", shown.getvalue())
    return [line.replace("\x00", "").strip() for line in re.split(r"[\r\n]", text) if line.replace("\x00", "").strip()]


def test_lines_that_were_there_before_are_not_shown_again(tmp_path: Path, screen: Callable[..., io.StringIO]) -> None:
    shown = screen(terminal=False)
    log(tmp_path / "log.txt", "old")
    with followed([tmp_path / "log.txt"]):
        log(tmp_path / "log.txt", "new 1/2 of it")
    assert "old" not in shown.getvalue() and "new 1/2 of it" in shown.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bytes_that_are_no_text_are_shown_as_codes_and_stop_nothing(
    terminal: bool, encoding: str, tmp_path: Path, screen: Callable[..., io.StringIO]
) -> None:
    shown = screen(terminal, encoding)
    path = tmp_path / "log.txt"
    with followed([path]):
        path.write_bytes(b"12:00:00 bad \xff\xfe byte\n12:00:01 \xc3\xa9t\xc3\xa9\n")
        log(path, "after")
    assert "bad \\xff\\xfe byte" in shown.getvalue() and "after" in shown.getvalue()
    assert ("été" in shown.getvalue()) == (encoding == "utf-8")


@pytest.mark.parametrize("harm", ["bytes", "gone", "a folder"])
def test_the_error_of_the_run_is_what_comes_out(harm: str, tmp_path: Path, screen: Callable[..., io.StringIO]) -> None:
    screen(terminal=True)
    path = tmp_path / "log.txt"
    path.write_text("some\n")
    with pytest.raises(ZeroDivisionError), followed([path]):
        path.unlink()
        if harm == "bytes":
            path.write_bytes(b"\xff\xff\xff\xff\xff\xff\n")
        elif harm == "a folder":
            path.mkdir()
        raise ZeroDivisionError


def test_a_terminal_shows_every_stage_from_the_start_with_the_totals_that_are_known(
    tmp_path: Path, screen: Callable[..., io.StringIO]
) -> None:
    shown = screen(terminal=True)
    with followed([tmp_path / "log.txt"], stages={"training": 40, "scasml": None}):
        pass
    text = shown.getvalue()
    assert re.search(r"training.*0/40", text) and re.search(r"scasml.*0/\?", text)


def test_a_terminal_shows_bars_and_the_loss_as_a_curve(tmp_path: Path, screen: Callable[..., io.StringIO]) -> None:
    shown = screen(terminal=True)
    path = tmp_path / "log.txt"
    with followed([path], stages={"training": 30, "scasml": None, "linear": None, "mlp": None}):
        for step, loss in ((10, 1e0), (20, 1e-1), (30, 1e-2)):
            log(path, f"training {step}/30 loss {loss:.3e}")
        log(path, "scasml 3/57 chunks")
        log(path, "scasml: 48 chunks computed, 9 reused")
        log(path, "mlp-2-4 6/15 chunks")
        log(path, "a remark")
    frame = "\n".join(last_frame(shown)[-4:])
    assert re.search(r"training.*30/30.*loss 1\.000e-02 █▄▁", frame)
    assert re.search(r"scasml.*57/57.*9 of them there before", frame)
    assert re.search(r"mlp .*6/15", frame) and "mlp-2-4" not in frame
    # What never began by then is not waited for.
    assert "linear" not in frame
    assert "a remark" in shown.getvalue() and "chunks computed" not in shown.getvalue()


def test_several_runs_have_one_bar_for_all_and_one_for_what_each_is_doing(
    tmp_path: Path, screen: Callable[..., io.StringIO]
) -> None:
    shown = screen(terminal=True)
    paths = [tmp_path / name / "log.txt" for name in "abc"]
    for path in paths:
        path.parent.mkdir()
    with followed(paths, stages={"training": 40}, labels=["seed=0", "seed=1", "seed=2"]):
        log(paths[0], "training 20/40 loss 1e-1")
        log(paths[0], "report written")
        log(paths[1], "training 10/40 loss 1e-1")
    frame = "\n".join(last_frame(shown)[-2:])
    assert re.search(r"runs.*1/3", frame) and re.search(r"seed=1: training.*10/40", frame)
    assert "seed=0" not in frame


def test_no_bars_where_plain_lines_are_wanted(tmp_path: Path, screen: Callable[..., io.StringIO]) -> None:
    shown = screen(terminal=True)
    with followed([tmp_path / "log.txt"], stages={"training": 40}, plain=True):
        log(tmp_path / "log.txt", "training 20/40 loss 1e-1")
    assert re.fullmatch(r"\d\d:\d\d:\d\d training 20/40 loss 1e-1\n", shown.getvalue())


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0.0, float("nan"), float("inf"), -1.0], ""), ([2.0], "▁"), ([1.0, 1e-7], "█▁"), ([1e-7, 1.0], "▁█")],
)
def test_a_curve_is_logarithmic_and_leaves_out_what_has_no_logarithm(values: list[float], line: str) -> None:
    assert curve(values) == line


def test_a_long_curve_keeps_to_its_width() -> None:
    long: Any = [10.0 ** (-i / 100) for i in range(1000)]
    assert len(curve(long, 24)) == 24 and curve(long, 24)[0] == "█" and curve(long, 24)[-1] == "▁"
