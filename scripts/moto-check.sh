#!/bin/sh
# The conformance suite of storage/ against moto, an S3 server that others wrote. Needs Python 3 with venv, and PyPI for the first run.
set -eu
cd "$(dirname "$0")/.."
port=${1:-5099}
[ -x .tools/moto/bin/moto_server ] || { python3 -m venv .tools/moto && .tools/moto/bin/pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'; }
.tools/moto/bin/moto_server -H 127.0.0.1 -p "$port" >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
# a bucket of its own for each run; moto checks no signature, and wants to see one
bucket=conformance-$$
scope='Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none'
for _ in 1 2 3 4 5 6 7 8 9 10; do
    curl --silent --fail --output /dev/null -X PUT -H "Authorization: AWS4-HMAC-SHA256 $scope" "http://127.0.0.1:$port/$bucket" && break
    sleep 1
done
AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test STORAGE_TEST_URL="s3://$bucket/empty?endpoint=http://127.0.0.1:$port" \
    cargo test --workspace --test conformance service
