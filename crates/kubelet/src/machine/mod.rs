//! What the machine has, and what of it is the pods' ([`allocatable`]).

pub mod allocatable;
