"""One host, forty ports: decides with pure functions and acts through one narrow `Host`."""
