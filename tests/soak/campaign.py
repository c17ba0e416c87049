"""What a campaign is: a test that gets better the longer it runs. ``scripts/soak`` runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Campaign:
    """One campaign.

    *purpose*: what it looks for, a line; *minutes*: how long it runs where nobody says; *hardware*: it boots
    Linux guests, so it runs on an emulated host where this machine does not run ring 0 in hardware; *run*: is
    given seconds and a seed, works until those seconds are over, and returns what was done, in words and
    numbers. It raises AssertionError for what was found.
    """

    purpose: str
    minutes: int
    hardware: bool
    run: Callable[[float, int], str]
