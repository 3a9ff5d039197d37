//! The table of all routes: what each does, to what, and within which bounds. What is not in it is not served.

use drover_api::routes;
use drover_model::Action;
use http::Method;

/// What the one placeholder in a route's path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Nothing that somebody owns.
    Nothing,
    /// A container.
    Container,
    /// A migration, and so its container.
    Migration,
    /// A volume.
    Volume,
    /// A container of which there is a copy.
    Copy,
}

/// How much may come with a request, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A small body, answered soon.
    Prompt,
    /// A small body; the answer takes as long as a program, a user or the size of something.
    Long,
    /// An archive, which takes as long as it is large.
    Archive,
}

/// One route with one method.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub method: Method,
    pub route: &'static str,
    pub action: Action,
    pub names: Names,
    pub bound: Bound,
}

/// The rule of a route with a method, if there is one.
pub(crate) fn rule(method: &Method, route: &str) -> Option<Rule> {
    rules().find(|rule| rule.method == *method && rule.route == route)
}

/// All rules.
pub(crate) fn rules() -> impl Iterator<Item = Rule> {
    use Action as A;
    use Bound::{Archive, Long, Prompt};
    use Names::{Container, Copy, Migration, Nothing, Volume};
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    let rules = [
        (GET, routes::NODE, A::LookAtNode, Nothing, Prompt),
        (GET, routes::FEATURES, A::LookAtNode, Nothing, Prompt),
        (GET, routes::OPENAPI, A::LookAtNode, Nothing, Prompt),
        (GET, routes::AUDIT, A::ReadAudit, Nothing, Prompt),
        (GET, routes::CLUSTER, A::LookAtCluster, Nothing, Prompt),
        (PUT, routes::CLUSTER, A::TellCluster, Nothing, Prompt),
        (POST, routes::RENEW, A::Renew, Nothing, Prompt),
        (POST, routes::ROTATE, A::ChangeCluster, Nothing, Prompt),
        (POST, routes::TOKENS, A::ChangeCluster, Nothing, Prompt),
        (DELETE, routes::CLUSTER_NODE, A::ChangeCluster, Nothing, Prompt),
        (POST, routes::USERS, A::ChangeCluster, Nothing, Prompt),
        (POST, routes::USER, A::ChangeCluster, Nothing, Prompt),
        (DELETE, routes::USER, A::ChangeCluster, Nothing, Prompt),
        (GET, routes::CONTAINERS, A::LookAtContainer, Nothing, Prompt),
        (POST, routes::CONTAINERS, A::MakeContainer, Nothing, Prompt),
        (GET, routes::CONTAINER, A::LookAtContainer, Container, Prompt),
        (DELETE, routes::CONTAINER, A::ChangeContainer, Container, Prompt),
        (POST, routes::START, A::ChangeContainer, Container, Prompt),
        (POST, routes::STOP, A::ChangeContainer, Container, Long),
        (POST, routes::KILL, A::ChangeContainer, Container, Prompt),
        (GET, routes::STATS, A::LookAtContainer, Container, Prompt),
        (GET, routes::ALL_STATS, A::LookAtContainer, Nothing, Prompt),
        (POST, routes::WAIT, A::LookAtContainer, Container, Long),
        (GET, routes::LOGS, A::ReadLogs, Container, Long),
        (POST, routes::ATTACH, A::EnterContainer, Container, Long),
        (POST, routes::EXEC, A::EnterContainer, Container, Long),
        (POST, routes::COMMIT, A::ChangeImage, Container, Long),
        (GET, routes::IMAGES, A::LookAtImage, Nothing, Prompt),
        (GET, routes::IMAGE, A::LookAtImage, Nothing, Prompt),
        (POST, routes::IMAGE, A::ChangeImage, Nothing, Archive),
        (DELETE, routes::IMAGE, A::ChangeImage, Nothing, Prompt),
        (POST, routes::PRUNE_IMAGES, A::ChangeImage, Nothing, Long),
        (POST, routes::PULL, A::ChangeImage, Nothing, Long),
        (POST, routes::PUSH, A::ChangeImage, Nothing, Long),
        (GET, routes::OVERLAY, A::ChangeImage, Nothing, Long),
        (POST, routes::OVERLAY, A::ChangeImage, Nothing, Archive),
        (GET, routes::MIGRATIONS, A::LookAtMigration, Nothing, Prompt),
        (POST, routes::MIGRATIONS, A::MoveContainer, Nothing, Prompt),
        (POST, routes::CHECK, A::MoveContainer, Nothing, Long),
        (POST, routes::PLAN, A::MoveContainer, Nothing, Long),
        (GET, routes::MIGRATION, A::LookAtMigration, Migration, Prompt),
        (DELETE, routes::MIGRATION, A::MoveContainer, Migration, Prompt),
        // Not by its container: one that ended unanswered is in the journal alone, and no owner may do it.
        (POST, routes::RESOLVE, A::ResolveMigration, Nothing, Prompt),
        (GET, routes::DRAIN, A::LookAtDrain, Nothing, Prompt),
        (POST, routes::DRAIN, A::DrainNode, Nothing, Long),
        (DELETE, routes::DRAIN, A::DrainNode, Nothing, Prompt),
        (POST, routes::CANCEL_DRAIN, A::DrainNode, Nothing, Prompt),
        (GET, routes::VOLUMES, A::LookAtVolume, Nothing, Prompt),
        (POST, routes::VOLUMES, A::MakeVolume, Nothing, Prompt),
        (GET, routes::VOLUME, A::LookAtVolume, Volume, Prompt),
        (DELETE, routes::VOLUME, A::RemoveVolume, Volume, Prompt),
        (GET, routes::COPIES, A::LookAtCopy, Nothing, Prompt),
        (DELETE, routes::COPY, A::RemoveCopy, Copy, Prompt),
    ];
    rules.into_iter().map(|(method, route, action, names, bound)| Rule { method, route, action, names, bound })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use drover_model::{Caller, Identity, Object, Role, UserName, Verdict, decide};

    use super::*;

    /// Who may do what. A letter for each of: admin, operator, owner with what is its own, owner with what is another's,
    /// viewer, peer, stranger. `+` is allowed, `-` refused, `0` answered as if there was no such thing.
    const TABLE: &str = "
        GET    /v1/node                          +++++--
        GET    /v1/features                      +++++--
        GET    /v1/openapi.json                  +++++--
        GET    /v1/audit                         +------
        GET    /v1/cluster                       ++++++-
        PUT    /v1/cluster                       +----+-
        POST   /v1/cluster/renew                 ++++++-
        POST   /v1/cluster/rotate                +------
        POST   /v1/cluster/tokens                +------
        DELETE /v1/cluster/nodes/{name}          +------
        POST   /v1/cluster/users                 +------
        POST   /v1/cluster/users/{name}          +------
        DELETE /v1/cluster/users/{name}          +------
        GET    /v1/containers                    +++++--
        POST   /v1/containers                    ++++---
        GET    /v1/containers/{name}             +++0+--
        DELETE /v1/containers/{name}             +++0---
        POST   /v1/containers/{name}/start       +++0---
        POST   /v1/containers/{name}/stop        +++0---
        POST   /v1/containers/{name}/kill        +++0---
        GET    /v1/containers/{name}/stats       +++0+--
        GET    /v1/stats                         +++++--
        POST   /v1/containers/{name}/wait        +++0+--
        GET    /v1/containers/{name}/logs        +++0---
        POST   /v1/containers/{name}/attach      +++0---
        POST   /v1/containers/{name}/exec        +++0---
        POST   /v1/containers/{name}/commit      ++-----
        GET    /v1/images                        +++++--
        GET    /v1/images/{name}                 +++++--
        POST   /v1/images/{name}                 ++-----
        DELETE /v1/images/{name}                 ++-----
        POST   /v1/prune/images                  ++-----
        POST   /v1/registry/pull                 ++-----
        POST   /v1/registry/push                 ++-----
        GET    /v1/overlay                       ++-----
        POST   /v1/overlay                       ++-----
        GET    /v1/migrations                    +++++--
        POST   /v1/migrations                    ++++---
        POST   /v1/check                         ++++---
        POST   /v1/plan                          ++++---
        GET    /v1/migrations/{id}               +++0+--
        DELETE /v1/migrations/{id}               +++0---
        POST   /v1/migrations/{id}/resolve       ++-----
        GET    /v1/drain                         ++--+--
        POST   /v1/drain                         ++-----
        DELETE /v1/drain                         ++-----
        POST   /v1/drain/cancel                  ++-----
        GET    /v1/volumes                       +++++--
        POST   /v1/volumes                       ++++---
        GET    /v1/volumes/{name}                +++0+--
        DELETE /v1/volumes/{name}                +++0---
        GET    /v1/copies                        +++++--
        DELETE /v1/copies/{id}                   +++0---
    ";

    fn verdicts(rule: &Rule) -> String {
        let (alice, bob): (UserName, UserName) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let user = |role| Caller::User { name: alice.clone(), role };
        let of = |owner| if rule.names == Names::Nothing { Object::Any } else { Object::One(Some(owner)) };
        let callers = [
            (user(Role::Admin), of(&bob)),
            (user(Role::Operator), of(&bob)),
            (user(Role::Owner), of(&alice)),
            (user(Role::Owner), of(&bob)),
            (user(Role::Viewer), of(&bob)),
            (Caller::Peer("n2".parse().unwrap()), of(&bob)),
            (Caller::Stranger(Identity::User(alice.clone())), of(&alice)),
        ];
        let letter = |(caller, object)| match decide(&caller, rule.action, object) {
            Verdict::Allowed => '+',
            Verdict::Refused => '-',
            Verdict::Hidden => '0',
        };
        callers.into_iter().map(letter).collect()
    }

    #[test]
    fn every_role_may_do_what_the_table_says_on_every_route() {
        let line = |rule: Rule| format!("{:<6} {:<33} {}", rule.method.as_str(), rule.route, verdicts(&rule));
        let decided: Vec<String> = rules().map(line).collect();
        let table: Vec<&str> = TABLE.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(decided, table);
    }

    #[test]
    fn every_route_that_is_served_has_a_rule_and_no_rule_is_without_a_route() {
        let described: BTreeSet<String> = serde_json::to_value(crate::openapi()).unwrap()["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                methods.into_iter().map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let ruled: BTreeSet<String> = rules().map(|rule| format!("{} {}", rule.method, rule.route)).collect();
        assert_eq!(described, ruled);
        assert_eq!(ruled.len(), rules().count(), "no route has two rules");
    }
}
