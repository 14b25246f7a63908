use hyper::header::HeaderValue;

use super::*;
use crate::report::{Id, RefusalKind};

fn entry(name: &str, token: &str, more: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", TokenHash::of(token))
}

fn access(text: &str) -> Access {
    let access = Access::default();
    access.replace(Tokens::parse(text).expect("a tokens file"));
    access
}

fn bearing(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"));
    headers
}

fn id(text: &str) -> Id {
    Id::new(text).expect("an id")
}

#[test]
fn without_a_tokens_file_everybody_may_do_everything() {
    let access = Access::default();
    for scope in [Scope::Ingest, Scope::AdminRead, Scope::AdminWrite] {
        let grant = access.check(&HeaderMap::new(), scope).expect("no token is asked for");
        assert_eq!(grant.admit(&id("a")), Ok(()));
    }
}

#[test]
fn an_empty_tokens_file_lets_nobody_in() {
    let access = access("");
    assert_eq!(access.check(&HeaderMap::new(), Scope::Ingest).err(), Some(Denied::Missing));
    assert_eq!(access.check(&bearing(""), Scope::Ingest).err(), Some(Denied::Unknown));
}

#[test]
fn a_token_is_for_its_scope_alone_and_writing_includes_reading() {
    let text = [("i", "ingest"), ("r", "admin-read"), ("w", "admin-write")]
        .map(|(name, scope)| entry(name, name, &format!("scope = \"{scope}\"")));
    let access = access(&text.concat());
    let mut allowed = Vec::new();
    for token in ["i", "r", "w", "x"] {
        for scope in [Scope::Ingest, Scope::AdminRead, Scope::AdminWrite] {
            if access.check(&bearing(token), scope).is_ok() {
                allowed.push((token, scope.name()));
            }
        }
    }
    assert_eq!(allowed, [("i", "ingest"), ("r", "admin-read"), ("w", "admin-read"), ("w", "admin-write")]);
    assert_eq!(access.check(&bearing("x"), Scope::Ingest).err(), Some(Denied::Unknown));
    let wanted = Scope::AdminWrite;
    assert_eq!(access.check(&bearing("r"), wanted).err(), Some(Denied::Scope { wanted }));
}

#[test]
fn a_token_comes_as_a_header_or_as_a_subprotocol() {
    let presented_by = |name, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        presented(&headers).map(str::to_owned)
    };
    assert_eq!(presented_by(AUTHORIZATION, "Bearer abc"), Some("abc".to_owned()));
    assert_eq!(presented_by(AUTHORIZATION, "bearer  abc"), Some("abc".to_owned()));
    assert_eq!(presented_by(AUTHORIZATION, "Basic abc"), None);
    assert_eq!(presented_by(AUTHORIZATION, "abc"), None);
    assert_eq!(presented_by(SEC_WEBSOCKET_PROTOCOL, "forebay, forebay.token.abc"), Some("abc".to_owned()));
    assert_eq!(presented_by(SEC_WEBSOCKET_PROTOCOL, "forebay"), None);
}

#[test]
fn a_token_writes_the_ids_of_its_patterns() {
    let access = access(&entry("a", "a", "scope = \"ingest\"\nids = [\"eu-*\", \"7\"]"));
    let grant = access.check(&bearing("a"), Scope::Ingest).expect("it is known");
    assert_eq!((grant.admit(&id("eu-1")), grant.admit(&id("7"))), (Ok(()), Ok(())));
    let refusal = grant.admit(&id("us-1")).expect_err("not its id");
    assert_eq!((refusal.kind, refusal.retry_after_ms), (RefusalKind::ForbiddenId, None));
}

#[test]
fn a_quota_counts_distinct_ids_and_goes_on_counting_when_the_entry_changes() {
    let with_quota = |quota: usize| entry("a", "a", &format!("scope = \"ingest\"\nmax_ids = {quota}"));
    let access = access(&with_quota(2));
    let grant = access.check(&bearing("a"), Scope::Ingest).expect("it is known");
    for (text, ok) in [("x", true), ("y", true), ("x", true), ("z", false), ("y", true)] {
        assert_eq!(grant.admit(&id(text)).is_ok(), ok, "{text}");
    }
    access.replace(Tokens::parse(&with_quota(3)).expect("a tokens file"));
    let grant = access.check(&bearing("a"), Scope::Ingest).expect("it is known");
    assert_eq!((grant.admit(&id("z")).is_ok(), grant.admit(&id("last")).is_ok()), (true, false));
}

/// Docs say that a quota lasts as long as the process: it once began anew when the entry was away for one SIGHUP.
#[test]
fn a_quota_goes_on_counting_when_its_entry_comes_back() {
    let counted = entry("a", "a", "scope = \"ingest\"\nmax_ids = 2");
    let other = entry("b", "b", "scope = \"ingest\"\nmax_ids = 2");
    let access = access(&[counted.clone(), other.clone()].concat());
    let admitted = |token: &str, text: &str| {
        let grant = access.check(&bearing(token), Scope::Ingest).expect("it is known");
        grant.admit(&id(text)).is_ok()
    };
    assert!(admitted("a", "x") && admitted("a", "y") && admitted("b", "x"));
    for without in ["", &other, &entry("a", "another", "scope = \"ingest\"")] {
        access.replace(Tokens::parse(without).expect("a tokens file"));
        // Its name, its patterns and its quota may be others: the secret is the token.
        let back = entry("renamed", "a", "scope = \"ingest\"\nids = [\"*\"]\nmax_ids = 2");
        access.replace(Tokens::parse(&[back, other.clone()].concat()).expect("a tokens file"));
        assert_eq!((admitted("a", "x"), admitted("a", "z")), (true, false), "{without}");
    }
    assert_eq!((admitted("b", "y"), admitted("b", "z")), (true, false));
}

#[test]
fn what_is_remembered_of_tokens_that_are_gone_is_bounded() {
    let access = access("");
    for n in 0..4 {
        let many = entry("a", &format!("t{n}"), "scope = \"ingest\"\nmax_ids = 350000");
        access.replace(Tokens::parse(&many).expect("a tokens file"));
        let grant = access.check(&bearing(&format!("t{n}")), Scope::Ingest).expect("it is known");
        assert!((0..350_000).all(|each| grant.admit(&id(&format!("{each}"))).is_ok()));
    }
    for (n, is_remembered) in [(3, true), (2, true), (1, true), (0, false)] {
        let few = entry("a", &format!("t{n}"), "scope = \"ingest\"\nmax_ids = 1");
        access.replace(Tokens::parse(&few).expect("a tokens file"));
        let grant = access.check(&bearing(&format!("t{n}")), Scope::Ingest).expect("it is known");
        assert_eq!(grant.admit(&id("new")).is_err(), is_remembered, "t{n}");
    }
}

#[test]
fn a_token_that_goes_or_changes_takes_its_grants_with_it() {
    let kept = entry("kept", "k", "scope = \"ingest\"");
    let access = access(&[kept.clone(), entry("gone", "g", "scope = \"ingest\"")].concat());
    let [grant_kept, grant_gone] =
        ["k", "g"].map(|token| access.check(&bearing(token), Scope::Ingest).expect("it is known"));
    access.replace(Tokens::parse(&kept).expect("a tokens file"));
    assert_eq!((grant_kept.is_in_force(), grant_gone.is_in_force()), (true, false));
    assert_eq!(grant_kept.admit(&id("a")), Ok(()));
    assert_eq!(grant_gone.admit(&id("a")).map_err(|refusal| refusal.kind), Err(RefusalKind::ForbiddenId));
    assert_eq!(access.check(&bearing("g"), Scope::Ingest).err(), Some(Denied::Unknown));
}

#[test]
fn a_tokens_file_is_read_whole_or_refused_with_every_fault() {
    let secret = "fby_not_to_be_repeated";
    let text = [
        entry("a", "a", "scope = \"ingest\"\nids = []\nmax_ids = 0"),
        entry("a", "b", "scope = \"admin-read\"\nids = [\"*\"]"),
        format!("[[token]]\nname = \"\"\nsha256 = \"{secret}\"\nscope = \"ingest\"\nids = [\"a b\"]\n"),
        entry("d", "d", "scope = \"ingest\""),
        entry("e", "d", "scope = \"ingest\""),
    ];
    let said = Tokens::parse(&text.concat()).expect_err("faults").to_string();
    for wanted in [
        "token 1 (\"a\"): ids must have 1 to 64 patterns",
        "token 1 (\"a\"): max_ids must be",
        "token 2 (\"a\"): name is there already",
        "token 2 (\"a\"): ids and max_ids are for scope ingest alone",
        "token 3 (\"\"): name must have",
        "token 3 (\"\"): sha256 must be",
        "token 3 (\"\"): ids must be patterns",
        "token 5 (\"e\"): sha256 is that of another token",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
    assert!(!said.contains(secret), "{said}");
}

#[test]
fn a_tokens_file_of_other_keys_is_refused_with_its_line() {
    for (text, line) in [
        ("[[token]]\nname = 7", 2),
        ("\n[[token]]\nname = \"a\"\nsha256 = \"\"\nscope = \"root\"", 5),
        ("\n\n[[tokens]]", 3),
        ("[[token]]\nname = ", 2),
    ] {
        let error = Tokens::parse(text).expect_err(text);
        assert!(matches!(error, TokensError::Syntax { line: found, .. } if found == line), "{text}: {error}");
    }
}

#[test]
fn a_token_in_the_wrong_place_is_not_repeated() {
    let secret = format!("fby_{}", "0123456789abcdef".repeat(4));
    for text in [
        format!("token = \"{secret}\""),
        format!("[[token]]\nname = \"a\"\nscope = \"{secret}\""),
        format!("[[token]]\nname = \"a\"\n{secret} = 1"),
        format!("[[token]]\nname = \"a\"\nmax_ids = \"{secret}\""),
        format!("[[token]]\nname = \"{secret}\"\nsha256 = \"\"\nscope = \"ingest\""),
    ] {
        let said = Tokens::parse(&text).expect_err("it is at fault").to_string();
        assert!(!said.contains("0123"), "{said}");
    }
}

#[test]
fn new_tokens_are_long_and_differ() {
    let [a, b] = [(); 2].map(|()| Secret::new().expect("random numbers"));
    assert_eq!(a.expose().len(), 4 + 64);
    assert_ne!(a.hash(), b.hash());
    assert_eq!(TokenHash::from_hex(&a.hash().to_string().to_uppercase()), Some(a.hash()));
}

#[test]
fn the_example_is_a_tokens_file() {
    assert!(Tokens::parse(include_str!("../../docs/forebay-tokens.toml")).is_ok());
}
