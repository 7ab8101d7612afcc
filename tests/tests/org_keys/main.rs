//! Organization columns of every type: uuid holds the organization's id; text, varchar, integer and bigint its external
//! key. Section 5 of the specification.

mod changes;
mod columns;
mod reads;
mod references;
mod shapes;
mod stage;
mod writes;
