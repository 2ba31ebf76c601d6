"""How the embedded model was made. The app never imports this package."""
