//! What people look at when a sweep is done: the closing table in the terminal, how often winners lie at an edge of their space,
//! and the page that shows all that is known of one GPU.

mod closing;
mod edges;
mod page;
mod winners;

pub use closing::sweep;
pub use edges::{Axis, Edge, edges, edges_table};
pub use page::{Inputs, Night, page};
