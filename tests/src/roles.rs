//! What is said of an organization's own roles, in the tests that make some.

use crate::World;

/// A statement about acme's roles: `call(&world, "grant_permission", "'deployer', 'site:deploy'")`.
pub fn call(world: &World, function: &str, arguments: &str) -> String {
    format!(
        "SELECT tenancy.{function}('{}', {arguments})",
        world.acme.id
    )
}

pub fn assign(world: &World, who: &str, role: &str) -> String {
    call(
        world,
        "set_member_role",
        &format!("'{}', '{role}'", world.user(who)),
    )
}

/// A role of acme's with these permissions, made by the DBA.
#[track_caller]
pub fn role(world: &World, name: &str, actions: &[&str]) {
    let mut dba = world.superuser();
    dba.run(&call(world, "create_role", &format!("'{name}'")));
    for action in actions {
        dba.run(&call(
            world,
            "grant_permission",
            &format!("'{name}', '{action}'"),
        ));
    }
}
