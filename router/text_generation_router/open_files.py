"""How many files, and so connections, this process may have open."""

import resource

# Far more than clients of one server, and few enough for whatever walks all of them.
_MAX_OPEN_FILES = 65_536


def raise_limit() -> None:
    """Up to what the system allows. Shells and systemd begin at 1024, which idle connections of a
    load balancer reach; every further one would be reset without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
