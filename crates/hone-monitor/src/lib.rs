//! The monitoring API and the dashboard.
