//! Rows that have their environment from their project, or their cluster (spec 7): everything that holds for a row's own tag
//! holds for that one, and to retag a project is to retag its rows.

mod retag;
mod rows;
mod shapes;
mod stage;
mod together;
