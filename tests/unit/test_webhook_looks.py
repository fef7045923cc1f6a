"""How often it is asked whose webhooks are due."""

from workers.webhooks import next_look_s


def test_a_quick_look_is_repeated_at_once_and_a_slow_one_takes_a_tenth_of_the_time() -> None:
    assert next_look_s(0.001) == 0.2
    assert next_look_s(0.1) == 1.0


def test_one_look_that_took_seconds_does_not_stop_all_webhooks_for_half_a_minute() -> None:
    assert next_look_s(3.1) == 2.0
