//! respgate in front of a cluster.

mod servers;
