//! Roles of an organization's own (issue 7.1, section 2 of the specification): who makes and gives them, what they give,
//! and that nobody gets by them what nobody gave who held it.

mod actions;
mod environments;
mod given;
mod kept;
mod made;

use pg_tenancy_tests::roles::{assign, role};
use pg_tenancy_tests::{Session, World};

/// acme.admin becomes a captain: may manage the team, and holds little else.
fn captain(world: &World) -> Session {
    role(
        world,
        "captain",
        &[
            "team:read",
            "team:invite",
            "team:role",
            "team:remove",
            "server:read",
            "site:read",
            "site:manage",
        ],
    );
    world
        .superuser()
        .run(&assign(world, "acme.admin", "captain"));
    world.session("acme.admin")
}

/// Everything that acme's roles and members are, as the tables hold it.
fn everything(world: &World) -> Vec<String> {
    world.superuser().column(
        "SELECT concat_ws(' ', 'role', org_id, name, active) FROM tenancy.custom_roles
         UNION ALL SELECT concat_ws(' ', 'grant', org_id, role, action, environment, level) FROM tenancy.custom_role_permissions
         UNION ALL SELECT concat_ws(' ', 'member', org_id, user_id, role) FROM tenancy.memberships ORDER BY 1",
    )
}
