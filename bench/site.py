"""Making the site: seconds, files and bytes for growing numbers of cells.

python bench/site.py [CELLS...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import site_cells as sites

from assay.site import gather, render


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [100, 1000, 10_000]
    print(f"{'cells':>6} {'gather s':>9} {'render s':>9} {'ms/cell':>8} {'files':>6} {'MB':>7} {'index MB':>9}")
    for count in counts:
        cells, records = sites.cells(count), list(sites.records(count))
        start = time.perf_counter()
        site = gather(records, cells, made=sites.START)
        middle = time.perf_counter()
        sizes = {path: len(data) for path, data in render(site)}
        end = time.perf_counter()
        print(
            f"{count:>6} {middle - start:>9.2f} {end - middle:>9.2f} {(end - middle) / count * 1000:>8.2f} "
            f"{len(sizes):>6} {sum(sizes.values()) / 1e6:>7.1f} {sizes['index.html'] / 1e6:>9.2f}"
        )


if __name__ == "__main__":
    main()
