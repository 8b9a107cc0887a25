# SPDX-License-Identifier: BSD-3-Clause
"""What tests expect of answers."""

from spec import Fes, Offset, status_name

ANY = None
# A PDU in a state where it must not come. The transport specification names no status for a second ICReq or for a PDU
# of the wrong direction; PDU Sequence Error, and an invalid type at offset 0, both describe it (TCP 3.3, 3.6.2.5).
WRONG_TYPE_OR_STATE = ((Fes.SEQUENCE, ANY), (Fes.INVALID_HEADER, Offset.TYPE))
UNKNOWN_TYPE = ((Fes.INVALID_HEADER, Offset.TYPE),)


def invalid(offset):
    """The one answer to an invalid header field (TCP 3.6.2.5, FES 1)."""
    return ((Fes.INVALID_HEADER, offset),)


def unsupported(offset):
    """A value may be called invalid or not supported (TCP 3.1)."""
    return ((Fes.INVALID_HEADER, offset), (Fes.UNSUPPORTED, offset))


def status(completion, *allowed):
    """The completion has one of these statuses."""
    names = " or ".join(map(status_name, allowed))
    assert completion.status in allowed, f"status {status_name(completion.status)}, expected {names}"
    return completion


def terminated(connection, *allowed, header=b""):
    """The target sends a terminate request, then closes. allowed: (FES, FEI) pairs, FEI may be ANY.
    header: what was sent; the request's data must be the start of it (TCP 3.5)."""
    term = connection.wait_closed()
    assert term is not None, "closed without C2HTermReq"
    answer = f"FES {term.fes} FEI {term.fei:#x}"
    found = any(term.fes == fes and fei in (ANY, term.fei) for fes, fei in allowed)
    assert found, f"{answer}, expected one of {allowed}"
    if header:
        assert len(term.data) >= 8, "the PDU header that was in error is missing (TCP 3.5)"
        assert bytes(header[:len(term.data)]) == term.data[:len(header)], "data is not the header in error (TCP 3.5)"
    return term


def closed(connection):
    """The target closes, with or without a terminate request."""
    return connection.wait_closed()
