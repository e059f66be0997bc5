"""What every test of iaflow may rely on.

Decides which plugins are loaded and how hypothesis searches; never starts anything by itself.
Read by pytest.
"""

from hypothesis import settings

pytest_plugins = [
    "tests.servers.fixtures",
    "tests.browser.fixtures",
    "tests.distribution",
    "tests.conformance.options",
    "tests.fuzz.options",
]

# A deadline per example measures how busy the machine is; pytest-timeout guards against hanging.
settings.register_profile("iaflow", deadline=None, print_blob=True)
settings.load_profile("iaflow")
