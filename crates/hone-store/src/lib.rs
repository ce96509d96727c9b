//! The workspace on disk: folders, the SQLite state, the owner lock.
