"""Versions in records: a package's own, and no crash where kanglue runs from its folder."""

import numpy as np

from pipeline.versions import version


def test_an_installed_package_says_its_version():
    assert version("numpy") == np.__version__


def test_a_package_that_is_not_installed_is_said_to_be_so():
    assert version("no-such-package-anywhere") == "not installed"
