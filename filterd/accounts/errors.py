"""The errors of the accounts.

AccountsError
├── BadAccount            the operator named an account that cannot be (text says why)
├── NoSuchAccount
├── AccountExists
└── AccountsUnavailable   the database cannot be read now: a temporary failure, never "unknown user"
"""

from __future__ import annotations


class AccountsError(Exception):
    """Base of the errors of this package; the text is for the operator."""


class BadAccount(AccountsError):
    """The address or value cannot be used for an account."""


class NoSuchAccount(AccountsError):
    """There is no account of that name."""


class AccountExists(AccountsError):
    """There is an account of that name already."""


class AccountsUnavailable(AccountsError):
    """The database cannot be read or written now: try again later."""
