//! Decides who a process runs as, from a user string and the text of the root's passwd and group files. Pure.

/// A name that the root does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownIdentity {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

/// Numbers to run as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Numbers as they are.
    #[must_use]
    pub fn numeric(uid: u32, gid: u32, additional: &[u32]) -> Self {
        Self {
            uid,
            gid,
            groups: additional.to_vec(),
        }
    }

    /// Looks up `user[:group]` as BuildKit does: two numbers (or `root`) are taken as they are; otherwise names and
    /// numbers are looked up in the root's files, and only a name that is missing there is an error.
    pub fn lookup(user: &str, passwd: &str, group: &str) -> Result<Self, UnknownIdentity> {
        let (user, group_name) = user
            .split_once(':')
            .map_or((user, None), |(u, g)| (u, Some(g)));
        // No user at all is uid 0 with the groups that the image gives it.
        let user = if user.is_empty() && group_name.is_none() {
            "0"
        } else {
            user
        };
        if let (Some(uid), Some(gid)) = (number_or_root(user), group_name.and_then(number_or_root))
        {
            return Ok(Self::of(uid, gid, Vec::new()));
        }
        let entry = passwd
            .lines()
            .filter_map(PasswdEntry::parse)
            .find(|entry| entry.is(user));
        let (uid, gid) = match (&entry, user.parse::<u32>()) {
            _ if user.is_empty() => (0, 0),
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Ok(uid)) => (uid, 0),
            (None, Err(_)) => return Err(UnknownIdentity::User(user.to_owned())),
        };
        let group_entries = group.lines().filter_map(GroupEntry::parse);
        match (group_name.filter(|name| !name.is_empty()), entry) {
            (Some(name), _) => Ok(Self::of(uid, find_group(name, group_entries)?, Vec::new())),
            (None, Some(entry)) => {
                let member = group_entries
                    .filter(|group| group.has(entry.name))
                    .map(|group| group.gid);
                Ok(Self::of(uid, gid, member.collect()))
            }
            (None, None) => Ok(Self::of(uid, gid, Vec::new())),
        }
    }

    fn of(uid: u32, gid: u32, others: Vec<u32>) -> Self {
        let mut groups = vec![gid];
        for other in others {
            if !groups.contains(&other) {
                groups.push(other);
            }
        }
        Self { uid, gid, groups }
    }
}

/// The home directory of a uid; `/` for one that passwd lacks.
#[must_use]
pub fn home_of(uid: u32, passwd: &str) -> &str {
    passwd
        .lines()
        .filter_map(PasswdEntry::parse)
        .find(|entry| entry.uid == uid)
        .map_or("/", |entry| entry.home)
}

fn find_group<'a>(
    name: &str,
    mut entries: impl Iterator<Item = GroupEntry<'a>>,
) -> Result<u32, UnknownIdentity> {
    let number = name.parse::<u32>();
    if let Some(entry) = entries.find(|entry| entry.name == name || number == Ok(entry.gid)) {
        return Ok(entry.gid);
    }
    number.map_err(|_| UnknownIdentity::Group(name.to_owned()))
}

fn number_or_root(text: &str) -> Option<u32> {
    if text == "root" {
        Some(0)
    } else {
        text.parse().ok()
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/");
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }

    fn is(&self, user: &str) -> bool {
        self.name == user || user.parse() == Ok(self.uid)
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    }

    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n\
                          dev:x:1000:1000::/home/dev:/bin/sh\nbroken line\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:dev,root\nwheel:x:10:dev\ndev:x:1000:\n";

    #[test]
    fn a_user_string_is_looked_up_as_buildkit_does() {
        let cases: [(&str, u32, u32, &[u32]); 11] = [
            ("", 0, 0, &[0, 100]),
            ("1234", 1234, 0, &[0]),
            ("1000", 1000, 1000, &[1000, 100, 10]),
            ("1000:1000", 1000, 1000, &[1000]),
            ("nobody", 65534, 65534, &[65534]),
            ("dev", 1000, 1000, &[1000, 100, 10]),
            ("dev:users", 1000, 100, &[100]),
            ("0:12", 0, 12, &[12]),
            (":12", 0, 12, &[12]),
            ("root:users", 0, 100, &[100]),
            ("root:root", 0, 0, &[0]),
        ];
        for (user, uid, gid, groups) in cases {
            let expected = Identity {
                uid,
                gid,
                groups: groups.to_vec(),
            };
            assert_eq!(
                Identity::lookup(user, PASSWD, GROUP),
                Ok(expected),
                "{user:?}"
            );
        }
    }

    #[test]
    fn a_missing_name_is_an_error_in_the_runtimes_words() {
        let error = Identity::lookup("nosuch", PASSWD, GROUP).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to find user nosuch: no matching entries in passwd file"
        );
        let error = Identity::lookup("root:nosuch", PASSWD, GROUP).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to find group nosuch: no matching entries in group file"
        );
        assert!(Identity::lookup("root", "", "").is_err());
    }

    #[test]
    fn home_comes_from_passwd_or_is_the_root() {
        assert_eq!(home_of(0, PASSWD), "/root");
        assert_eq!(home_of(65534, PASSWD), "/home");
        assert_eq!(home_of(4711, PASSWD), "/");
    }
}
