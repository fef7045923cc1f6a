"""The names of lines."""

import pytest

from headway import broker


def test_the_default_class_has_the_plain_names() -> None:
    assert broker.lines("m", "1") == ["headway:m@1:0", "headway:m@1:1", "headway:m@1:2"]
    assert broker.lines("m", "1") == broker.lines("m", "1", [0])
    assert broker.all_lines("m", "1") == [*broker.lines("m", "1"), "headway:m@1:3"]


@pytest.mark.parametrize("tenant_class", [0, 1, 31])
@pytest.mark.parametrize("priority", range(10))
def test_a_name_says_all_it_was_made_of(priority: int, tenant_class: int) -> None:
    name = broker.line("org.model-x", "2024-01.b", priority, tenant_class)
    assert broker.parse_line(name) == ("org.model-x", "2024-01.b", broker.step(priority), tenant_class)
    assert name in broker.lines("org.model-x", "2024-01.b", range(32))


def test_lines_come_most_urgent_first_whatever_the_class() -> None:
    steps = [broker.parse_line(name).step for name in broker.lines("m", "1", range(4))]
    assert steps == sorted(steps)
