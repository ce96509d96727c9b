//! Seeded random schedules.
