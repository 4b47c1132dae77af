"""`python -m apps.erasure.vendor`: the vendor as a process."""

import argparse

import uvicorn

from apps.erasure.vendor.service import Vendor, make_vendor


def main() -> None:
    parser = argparse.ArgumentParser(prog="vendor", description="A third party that deletes people's data.")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--token", default="vendor-token", help="what callers must send as a bearer token")
    parser.add_argument("--work", type=float, default=5.0, metavar="SECONDS", help="how long a deletion takes")
    parser.add_argument("--seed", type=int, default=0, help="which requests the faults strike")
    options = parser.parse_args()
    vendor = Vendor(token=options.token, work_s=options.work, seed=options.seed)
    uvicorn.run(make_vendor(vendor), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
