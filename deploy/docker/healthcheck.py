"""Whether the server of this container is ready: exit code 0, or 1 and a line that says why not.

Asks ``/health/ready``, which takes no token, at the address that the server has written into its data volume.
"""

import json
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Final

SERVER_FILE: Final = Path("/data/serve.json")
TIMEOUT_S: Final = 4


def check(server_file: Path) -> None:
    """Return if the server answers that it is ready. Raises ``OSError`` or ``ValueError`` if not."""
    url = json.loads(server_file.read_text("utf-8"))["url"]
    context = ssl.create_default_context()
    # The certificate is for the name that clients use; this asks the container's own address, and sends no secret.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(f"{url}/health/ready", timeout=TIMEOUT_S):
        return  # anything but a success has raised


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]) if len(sys.argv) > 1 else SERVER_FILE)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"not ready: {error!r}")
