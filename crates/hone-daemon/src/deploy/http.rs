//! A target reached only through its HTTP door.
