"""What a Debian file system says of itself."""

from __future__ import annotations

import pytest

from assay.wheels.debian import installed, newest_symbols, upstream_version

STATUS = """\
Package: zlib1g
Status: install ok installed
Version: 1:1.2.13.dfsg-1

Package: gone
Status: deinstall ok config-files
Version: 1.0-1

Package: libc6
Status: install ok installed
Description: a library
 Version: 9 in a description is not a field of its own
Version: 2.36-9+deb12u10
"""


def test_installed_lists_only_installed_packages_in_order() -> None:
    expected = {"libc6": "2.36-9+deb12u10", "zlib1g": "1:1.2.13.dfsg-1"}

    assert expected == installed(STATUS)
    assert list(expected) == list(installed(STATUS))


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.36-9+deb12u10", "2.36"), ("1:1.2.13.dfsg-1", "1.2.13.dfsg"), ("3.11.2-6+deb12u6", "3.11.2"), ("5", "5")],
)
def test_upstream_version(version: str, expected: str) -> None:
    assert expected == upstream_version(version)


def test_newest_symbols_compare_as_numbers_and_leave_private_names_out() -> None:
    names = [
        "GLIBC_2.9",
        "GLIBC_2.36",
        "GLIBC_PRIVATE",
        "GLIBCXX_3.4.9",
        "GLIBCXX_3.4.30",
        "CXXABI_TM_1",
        "CXXABI_1.3.13",
    ]

    assert {"GLIBC": "2.36", "GLIBCXX": "3.4.30", "CXXABI": "1.3.13"} == newest_symbols(names)
