"""Ways to spell a place that nobody outside should have called from here, for the tests of who may be called."""

#: Hosts that mean this machine. A listener on all addresses of a port sees whoever connects to one of them.
HERE = """
127.0.0.1 127.0.0.1. 127.0.0.2 127.1.2.3 127.255.255.254 127.1 127.0.1 127.0.0.01 127.000.000.001 0177.0.0.1
0177.1 0177.0.1 00000177.0.0.1 017700000001 0x7f.0.0.1 0X7F.0.0.1 0x7f.1 0x7f.0x0.0x0.0x1 0x7f.0.01 0x7f000001
0X7F000001 0x0000007f000001 0x7f.0x000001 127.0x1 2130706433 2130706434 0 00 0x0 0.0 0.0.0 0.0.0.0 0x0.0.0.0
000.000.000.000 127.0.0.0x1 127.0.256 127.65536 ①②⑦.⓪.⓪.① １２７．０．０．１ 127。0。0。1 127｡0｡0｡1
127．0．0．1 ₁₂₇.₀.₀.₁ 𝟏𝟐𝟕.𝟎.𝟎.𝟏 𝟭𝟮𝟳.𝟬.𝟬.𝟭 ¹²⁷.⁰.⁰.¹ ２１３０７０６４３３ ０ｘ７ｆ．１ 127.0.0.1%2e
%31%32%37.0.0.1 127.0.0.1%00 127%2e0%2e0%2e1 localhost localhost. LOCALHOST LocalHost. x.localhost
a.b.localhost. ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ localhost%00.example.com [::1] [0:0:0:0:0:0:0:1]
[0000:0000:0000:0000:0000:0000:0000:0001] [::0001] [0::1] [::] [0:0:0:0:0:0:0:0] [::1%25lo] [::1%lo]
[::ffff:127.0.0.1] [::ffff:127.0.0.2] [::FFFF:127.0.0.1] [::ffff:7f00:1] [::ffff:7f00:0001]
[0:0:0:0:0:ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::ffff:0.0.0.0] [::ffff:0:127.0.0.1] [::ffff:0:7f00:1]
[::127.0.0.1] [::7f00:1]
""".split()  # noqa: SIM905  (as a list, each would take a line)

#: Hosts that mean other places behind the door: private, shared, of clouds, tunnels into them, of nobody.
BEHIND = """
10.0.0.1 10.1 012.0.0.1 0xa000001 167772161 172.16.0.1 172.31.255.254 0xac.0x10.0.1 192.168.0.1 192.168.1
192.168.257 3232235521 0xc0a80001 169.254.169.254 169.254.43518 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 2852039166
0251.0376.0251.0376 ①⑥⑨.②⑤④.①⑥⑨.②⑤④ 169.254.170.2 100.64.0.1 100.100.100.200 100.127.255.255
192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255 4294967295 [::ffff:10.0.0.1] [::ffff:169.254.169.254]
[::ffff:a9fe:a9fe] [::10.0.0.1] [64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b::a00:1]
[64:ff9b::169.254.169.254] [64:ff9b:1::7f00:1] [64:ff9b:1::a00:1] [2002:7f00:1::] [2002:a00:1::1]
[2002:a9fe:a9fe::] [2001:0:7f00:1::] [2001::1] [2001:db8::1] [2001:10::1] [2001:20::1] [fc00::1] [fd00::1]
[fd00:ec2::254] [fe80::1] [fe80::1%25eth0] [fec0::1] [ff01::1] [ff02::1] [ff0e::1] [100::1] [3fff::1]
[5f00::1] [4000::1] [8000::1]
""".split()  # noqa: SIM905

#: URLs of which parsers disagree; `HERE` stands for an address of this machine with the listener's port.
CONFUSED = [
    "https://HERE\\@example.com/",
    "https://example.com\\@HERE/",
    "https://example.com@HERE/",
    "https://example.com:443@HERE/",
    "https://a:b@HERE/",
    "https://@HERE/",
    "https://example.com#@HERE/",
    "https://HERE#@example.com/",
    "https://HERE?@example.com/#x",
    "https://HERE%2f@example.com/",
    "https://HERE%00.example.com/",
    "https://HERE\t.example.com/",
    "https://HERE\n/",
    "https://HERE /",
    " https://HERE/",
    "https://HE\rRE/",
    "https:/HERE/",
    "https:HERE/",
    "https:///HERE/",
    "https:\\\\HERE\\",
    "//HERE/",
    "HERE",
    "http://HERE/",
    "HTTP://HERE/",
    "ftp://HERE/",
    "gopher://HERE/_PING",
    "file://HERE/etc/passwd",
    "dict://HERE/INFO",
    "unix://HERE/",
    "jar:https://HERE!/",
    "https://[HERE]/",
    "https://[::1/",
    "https://HERE:443/",
    "https://HERE:0x50/",
    "https://HERE:-1/",
    "https://HERE:99999/",
]


def here(port: int) -> list[str]:
    """URLs of a port of this machine."""
    return [f"{scheme}://{host}:{port}/x" for host in HERE for scheme in ("https", "http")]


def confused(port: int) -> list[str]:
    return [url.replace("HERE", f"127.0.0.1:{port}") for url in CONFUSED]


def behind() -> list[str]:
    """URLs of other places, at the ports of the web and at others."""
    return [f"{scheme}://{host}{port}/x" for host in BEHIND for scheme, port in (("https", ""), ("http", ":8080"))]
