"""Settings of the simulated server by the names Pigeonhole gives them, in the old (0.5) and the new (2.4) spelling.

``test_config_set`` stores texts by name; a reload makes them count. ``limits_of`` turns them into limits of the
engine, ``engine_settings`` into the engine's own settings (``Run.setting``). Values that cannot be read leave
the default alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rules.limits import DEFAULT, Limits

_SIZE = re.compile(r"([0-9]{1,12})\s*([BKMG]?)B?", re.IGNORECASE)
_TIME = re.compile(r"([0-9]{1,9})\s*([a-z]*)", re.IGNORECASE)
_SCALE = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONG = {"ms": "milli", "s": "sec", "m": "min", "h": "hour", "d": "day", "w": "week"}
_NUMBERS = {
    "sieve_max_actions": "actions",
    "sieve_max_redirects": "redirects",
    "sieve_notify_max_notifications": "notifies",
    "sieve_include_max_includes": "includes",
    "sieve_include_max_nesting_depth": "include_depth",
    "sieve_variables_max_scope_count": "variables",
    "sieve_variables_max_scope_size": "variables",
    "sieve_regex_max_size": "regex_size",
    "sieve_vacation_max_subject_codepoints": "subject",
}
_SIZES = {
    "sieve_max_script_size": "script_size",
    "sieve_variables_max_variable_size": "variable_size",
    "sieve_variables_max_value_size": "variable_size",
    "sieve_editheader_max_header_size": "header_value",
}
# The engine's setting: the names it may be given by, the first that is set counts.
_SETTINGS = {
    "recipient_delimiter": ("recipient_delimiter", "sieve_subaddress_sep"),
    "editheader_max_header_size": ("sieve_editheader_max_header_size",),
    "vacation_default_period": ("sieve_vacation_default_period",),
    "vacation_min_period": ("sieve_vacation_min_period",),
    "vacation_max_period": ("sieve_vacation_max_period",),
    "vacation_default_subject": ("sieve_vacation_default_subject",),
    "vacation_default_subject_template": ("sieve_vacation_default_subject_template",),
    "vacation_use_original_recipient": ("sieve_vacation_use_original_recipient",),
    "vacation_to_header_ignore_envelope": ("sieve_vacation_to_header_ignore_envelope",),
    "vacation_check_recipient": ("sieve_vacation_check_recipient",),
    "notify_mailto_envelope_from": ("sieve_notify_mailto_envelope_from",),
    "report_from": ("sieve_report_from",),
}
_HEADER = "sieve_editheader_header/"


def switch(text: str | None, default: bool = False) -> bool:
    """A yes or no."""
    return default if text is None else text.strip().lower() in ("yes", "y", "true", "1", "on")


def seconds(text: str) -> float | None:
    """A time with its unit (without one: seconds); None when it is none."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    unit = found[2].lower()
    if not unit:
        return int(found[1])
    for short, long in _LONG.items():
        if unit == short or unit.startswith(long):
            return int(found[1]) * _UNITS[short]
    return None


def octets(text: str) -> int | None:
    """A size with its unit; None when it is none."""
    found = _SIZE.fullmatch(text.strip())
    return int(found[1]) * _SCALE[found[2].upper()] if found else None


def limits_of(config: Mapping[str, str]) -> Limits:
    """The limits these settings ask for."""
    changed: dict[str, int] = {}
    for name, field in _NUMBERS.items():
        text = config.get(name, "").strip()
        if text.isdigit() and len(text) < 10:
            changed[field] = int(text)
    for name, field in _SIZES.items():
        size = octets(config[name]) if name in config else None
        if size is not None:
            changed[field] = size
    limits = replace(DEFAULT, **changed)
    if "variable_size" in changed:
        limits = replace(limits, variables_total=max(limits.variables_total, 4 * limits.variable_size))
    cpu = seconds(config.get("sieve_max_cpu_time", ""))
    return replace(limits, cpu_seconds=float(cpu)) if cpu else limits


def engine_settings(config: Mapping[str, str]) -> dict[str, str]:
    """What the engine asks for by ``Run.setting``."""
    settings: dict[str, str] = {"postmaster": "Postmaster <postmaster@example.com>"}
    for name, given in _SETTINGS.items():
        for one in given:
            if one in config:
                settings[name] = config[one]
                break
    if switch(config.get("sieve_vacation_dont_check_recipient")):
        settings["vacation_check_recipient"] = "no"
    if "vacation_check_recipient" in settings:
        settings["vacation_check_recipient"] = (
            "yes" if switch(settings["vacation_check_recipient"], True) else "no"
        )
    for action in ("forbid_add", "forbid_delete"):
        names = config.get(f"sieve_editheader_{action}", "").lower().split()
        names += config.get("sieve_editheader_protected", "").lower().split()
        names += [
            name[len(_HEADER) : -len(action) - 1].lower()
            for name, value in config.items()
            if name.startswith(_HEADER)
            and name.endswith("/" + action)
            and switch(value)
            and name[len(_HEADER) : -len(action) - 1] in config.get("sieve_editheader_header", "").split()
        ]
        settings[f"editheader_{action}"] = " ".join(names)
    return settings
