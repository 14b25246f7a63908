//! `mysql://user:password@host:3306/database`, read into its parts. No error repeats a part.

use super::redact::HIDDEN;
use super::values::host_and_port;

/// The port where none is said.
const PORT: u16 = 3306;

/// Where a MySQL or MariaDB server is, and who logs in.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct MysqlUrl {
    /// The user.
    pub user: String,
    /// The password; `None` where the URL has none.
    pub password: Option<String>,
    /// A name or an address, an IPv6 one without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The server's socket on this machine, where it is reached by that: then host and port say nothing.
    pub socket: Option<String>,
}

impl MysqlUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, for a person, without any part of it.
    pub fn new(url: &str) -> Result<Self, &'static str> {
        const ENCODE: &str = "write other characters of user and password as %XX, such as %40 for @ and %2F for /";
        let rest = url.strip_prefix("mysql://").ok_or("it does not start with mysql://")?;
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("it has white space in it");
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        if rest.contains('#') || query.is_some_and(|query| query.contains(['?', '#', '&'])) {
            return Err(QUERY);
        }
        let socket = query.map(|query| query.strip_prefix("socket=").and_then(decoded).ok_or(QUERY)).transpose()?;
        if socket.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err("the socket must be a full path, such as ?socket=/run/mysqld/mysqld.sock");
        }
        let (authority, database) = rest.split_once('/').ok_or("the database is missing")?;
        let (account, address) =
            authority.rsplit_once('@').ok_or("the user is missing, or a / in the password is not written as %2F")?;
        let (user, password) = account.split_once(':').map_or((account, None), |(user, pass)| (user, Some(pass)));
        if user.is_empty() {
            return Err("the user is missing");
        }
        if account.contains(['@', '[', ']']) {
            return Err(ENCODE);
        }
        let user = decoded(user).ok_or(ENCODE)?;
        let password = password.map(|password| decoded(password).ok_or(ENCODE)).transpose()?;
        let (host, port) = host_and_port(address).ok_or("host or port cannot be read")?;
        let database = Some(database).filter(|name| !name.is_empty() && !name.contains('/')).and_then(decoded);
        Ok(Self {
            user,
            password: password.filter(|password| !password.is_empty()),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.unwrap_or(PORT),
            database: database.ok_or("the database must be one name")?,
            socket,
        })
    }
}

const QUERY: &str = "nothing but ?socket=PATH may follow the database; write ? as %3F, # as %23 and & as %26";

/// The text with each `%XX` as the byte that it stands for; none where that is no text, or an escape is none.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// A URL as it was written, without its password; of what is none, nothing.
pub(super) fn shown(url: &str) -> String {
    let parts = MysqlUrl::new(url).ok().and_then(|_| url.rsplit_once('@'));
    let Some((account, rest)) = parts else { return HIDDEN.to_owned() };
    match account["mysql://".len()..].split_once(':') {
        Some((user, _)) => format!("mysql://{user}:***@{rest}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_part_is_read_and_the_password_is_never_shown() {
        let url = MysqlUrl::new("mysql://u%40x:p%3A%2F%C3%A9@[::1]:33/d-1?socket=/run/my%20sqld/s.sock").expect("good");
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("u@x", Some("p:/é")));
        assert_eq!((url.host.as_str(), url.port, url.database.as_str()), ("::1", 33, "d-1"));
        assert_eq!(url.socket.as_deref(), Some("/run/my sqld/s.sock"));
        let plain = MysqlUrl::new("mysql://u:@h.example/d").expect("good");
        assert_eq!((plain.password.as_deref(), plain.port, plain.socket.as_deref()), (None, 3306, None));
        for (url, expected) in [
            ("mysql://u%40x:p%3A%2F@[::1]:33/d-1?socket=/s", "mysql://u%40x:***@[::1]:33/d-1?socket=/s"),
            ("mysql://u@h.example/d", "mysql://u@h.example/d"),
            ("mysql://u@hunter2@h/d", HIDDEN),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_a_part_of_it() {
        for url in [
            "mysql://u@hunter2@h/d",
            "mysql://u:p@h/d?socket=hunter2",
            "mysql://u:p@h/d?password=hunter2",
            "mysql://u:p@h/d?socket=/s&password=hunter2",
            "mysql://u:p@h/d?socket=/s?hunter2",
            "mysql://u:%hunter2@h/d",
            "mysql://u:%ff@h/hunter2",
            "mysql://u:p@[hunter2]/d",
            "postgres://u:hunter2@h/d",
        ] {
            let why = MysqlUrl::new(url).expect_err(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_password_comes_back_from_its_url_and_is_not_shown(password in "[^\\x00]{1,20}") {
            let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let url = format!("mysql://u:{encoded}@h/d");
            prop_assert_eq!(shown(&url), "mysql://u:***@h/d");
            prop_assert_eq!(MysqlUrl::new(&url).expect("good").password, Some(password));
        }
    }
}
