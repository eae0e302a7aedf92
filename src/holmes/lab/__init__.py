"""The lab: the hosts of a site on this machine, with real links between them.

The picture. One child process, the *switch*, moves into a fresh network
namespace and starts one *holder* per node of the site, each in a namespace of
its own. The switch holds the bridges; a virtual cable (veth pair) joins every
``nics`` entry of a node to the bridge of its cluster and fabric, and a cable
between two bridges stands for each link of the site. Every end of every cable
is shaped (htb) to the rehearsal rate, so a card is full duplex and a site link
is shared by all nodes of both clusters. Fast fabrics of clusters without such
a link between them do not reach each other. Addresses, neighbours and
forwarding entries are static: counters see payload and headers only.

Namespaces are anonymous: they live in the holders, and the kernel removes
namespaces, cables and bridges with the last process inside, also after
``kill -9``. Nothing is created in the namespace Holmes was started in, so
several labs run side by side. As root this works directly, otherwise inside an
unprivileged user namespace; where neither is allowed the lab is plain loopback
and says that (and why) its links are not shaped.

Read ``rates.py`` (how fast), ``wiring.py`` (what is joined to what), ``lab.py``
(the interface for everybody else), then ``switch.py`` and ``netlink.py``.
Latency cannot be shaped without netem; a relay would sit on the cables.
"""
