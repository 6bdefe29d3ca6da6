#!/bin/sh
# The conformance suite of storage/ against Azurite, Azure's own emulator of its blob store. Needs Node with npm, Python 3, and npm's registry for the first run.
set -eu
cd "$(dirname "$0")/.."
[ -x .tools/azurite/node_modules/.bin/azurite-blob ] || npm install --silent --prefix .tools/azurite azurite@3.35.0
data=$(mktemp -d)
.tools/azurite/node_modules/.bin/azurite-blob --silent --skipApiVersionCheck --location "$data" >/dev/null 2>&1 &
server=$!
trap 'kill $server; rm -rf "$data"' EXIT
# a container, signed with the key that every Azurite has
python3 - <<'PYTHON'
import base64, hashlib, hmac, time, urllib.error, urllib.request
from email.utils import formatdate

key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
for attempt in range(20):
    date = formatdate(usegmt=True)
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/devstoreaccount1/devstoreaccount1/conformance\nrestype:container"
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey devstoreaccount1:{signature}"}
    request = urllib.request.Request("http://127.0.0.1:10000/devstoreaccount1/conformance?restype=container", method="PUT", headers=headers)
    try:
        urllib.request.urlopen(request)
        break
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError:
        time.sleep(0.5)
PYTHON
AZURE_STORAGE_USE_EMULATOR=true STORAGE_TEST_URL=az://conformance/empty cargo test --workspace --test conformance service
