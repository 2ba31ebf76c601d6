"""The failure workbench: a mined run is queried, sliced, tagged and exported. No model, no page: ``ui`` draws it."""
