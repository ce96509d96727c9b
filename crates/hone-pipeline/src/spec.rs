//! The schema gate: a registry of row formats, deny by default. Pure.
