//! Resource scopes (spec 3.8): a membership that is limited to listed resources.

mod act;
mod govern;
mod see;
mod shapes;
mod stage;
