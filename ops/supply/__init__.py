"""What Penstock is built from: known weaknesses of the locked packages, and the list of them (SBOM)."""
