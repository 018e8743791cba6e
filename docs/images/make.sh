#!/bin/sh
# Makes the pictures of this folder that show hqvox's own output. Run it from the project's root,
# with hqvox and its python on the PATH:
#
#   docs/images/make.sh [DEMO]
#
# DEMO is a folder for `hqvox demo` (default: demo), made if it is missing. report.jpg and review*.jpg
# are screenshots and need chromium; without it, they are left as they are.
set -eu
demo=${1:-demo}
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

smaller() { # FROM TO SCALE
  python -c "
import sys
from PIL import Image
page, scale = Image.open(sys.argv[1]).convert('RGB'), float(sys.argv[3])
size = round(page.width * scale), round(page.height * scale)
page.resize(size, Image.LANCZOS).save(sys.argv[2], quality=85)
" "$@"
}

hqvox demo "$demo"
newest=$(ls -dt "$demo"/workspace/releases/*/ | head -n 1)
smaller "${newest}contact_sheets/001.jpg" "$here/released.jpg" 1
person=$(ls "$demo/world/photos" | head -n 1)
hqvox explain "$demo/workspace" "$person" --out "$here/explain-identity.jpg"
hqvox explain "$demo/workspace" "$person/000.jpg" --out "$here/explain-photo.jpg"
if command -v chromium >/dev/null; then
  chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
    --user-data-dir="$work/profile" --window-size=1280,2300 --screenshot="$work/report.png" \
    "file://$(realpath "$demo")/report.html" 2>/dev/null
  smaller "$work/report.png" "$here/report.jpg" 0.75
  python "$here/review.py" "$demo/workspace"
else
  echo "chromium is not installed: report.jpg and review*.jpg stay as they are"
fi
ls -l "$here"
