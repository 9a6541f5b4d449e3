//! End-to-end tests on real containers; see `tests/`.
