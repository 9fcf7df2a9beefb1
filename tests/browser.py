"""A real headless Chromium, for tests of the HTML page and for its pictures.

Needs Chromium, ChromeDriver and selenium; on Debian: `apt-get install chromium chromium-driver`.
"""

from __future__ import annotations

import base64
import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # Chromium's own sandbox cannot start for root, as in a container
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)

_WHERE = "return [location.href, performance.getEntriesByType('navigation')[0].loadEventEnd]"


def why_no_browser() -> str:
    """Say what is missing; empty if a browser can be started."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not found: {' and '.join(missing)}" if missing else ""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium, and end it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for each in _ARGUMENTS:
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the path of the driver, selenium looks for none on the network.
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """The few things that the tests do with a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> float:
        """Open a page and return how many seconds it took until all was there."""
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())
        # On a busy machine the driver returns while the page before is still shown.
        while True:
            address, milliseconds = self.run(_WHERE)
            if address == page.as_uri() and milliseconds > 0:
                return float(milliseconds) / 1000
            time.sleep(0.01)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def console(self) -> list[str]:
        """What the console says since the page was opened."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def look(self, width: int, *, dark: bool = False, media: str = "", scale: float = 1) -> None:
        """Show the page at a width, in light or dark, on a screen or on paper."""
        size = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        emulated = {"features": [scheme], "media": media}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(getattr(Keys, key))

    def pdf(self) -> bytes:
        """Print the page."""
        printed = self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        return base64.b64decode(printed["data"])

    def screenshot(self, height: int | None = None, form: str = "png") -> bytes:
        """Take a picture of the page, or of its upper part."""
        options: dict[str, Any] = {"format": form, "captureBeyondViewport": True}
        if height is not None:
            width = self.run("return innerWidth")
            options["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        return base64.b64decode(taken["data"])
