//! The fast device.
