"""A map of the cases: their features in two dimensions."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, is_installed, need
from .manifest import MapRecord
from .mined import MinedRun
from .store import as_parquet

MAP = "map.parquet"
MapMethod = Literal["pca", "umap"]


def cases_map(run: MinedRun, method: MapMethod | None = None) -> tuple[bytes, MapRecord] | None:
    """Lay the cases out by their features; None where no case has any.

    method: None takes UMAP if umap-learn is installed, else PCA. Both give the same map every time.

    Returns:
        The content of ``map.parquet`` (case_id, x, y) and its record.
    """
    import pyarrow as pa

    method = method or ("umap" if is_installed("umap") else "pca")
    table = run.table("cases", ["case_id", "ordinal", "features"]).sort_by("ordinal")
    table = table.filter(pa.compute.is_valid(table["features"]))
    if not table.num_rows:
        return None
    features = np.array(table["features"].to_pylist(), dtype=np.float64)
    places = laid_out(features, method).astype(np.float32)
    laid = pa.table({"case_id": table["case_id"], "x": places[:, 0], "y": places[:, 1]})
    content = as_parquet(laid)
    return content, MapRecord(method=method, cases=laid.num_rows, sha256=hashlib.sha256(content).hexdigest())


def laid_out(features: NDArray[np.float64], method: MapMethod) -> NDArray[np.float64]:
    """Features in two dimensions. Shape: ``(n, d)`` -> ``(n, 2)``. Few cases, or all alike, lie at 0.

    Raises:
        BadInput: If what computes it is not installed.
    """
    need("sklearn", "mine", "A map of the cases")
    if method == "umap" and len(features) > 15:
        return _by_umap(features)
    from sklearn.decomposition import PCA

    found = np.zeros((len(features), 2))
    count = min(2, len(features) - 1, features.shape[1])
    if count > 0 and bool(np.ptp(features, axis=0).any()):
        found[:, :count] = PCA(count, svd_solver="full").fit_transform(features)
    return found


def _by_umap(features: NDArray[np.float64]) -> NDArray[np.float64]:
    if not is_installed("umap"):
        raise BadInput("A map by UMAP needs the package umap-learn, which is not installed: pip install umap-learn.")
    import umap

    places: NDArray[np.float64] = umap.UMAP(random_state=0, n_jobs=1).fit_transform(features)
    return places
