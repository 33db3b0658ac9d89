import Testing
import Units

/// Reads `body` as the annotation of `unit`; the section's header is line 1.
private func read(_ body: String, unit: String = "web.service") throws(AnnotationErrors) -> Annotation? {
    try Annotation.read([UnitFile("[X-Mobility]\n" + body, path: "/u")], unit: unit)
}

private func errors(_ body: String, unit: String = "web.service") -> [String] {
    do throws(AnnotationErrors) {
        _ = try read(body, unit: unit)
        return []
    } catch {
        return error.errors.map(\.description)
    }
}

@Suite struct AnnotationTests {
    @Test func everyKey() throws {
        let annotation = try #require(
            try read(
                """
                # comment
                VirtualAddress=10.10.10.11/24
                VirtualAddress = 2001:db8::11/64
                Interface=eth0
                DNSName=web.example.org.
                CarryPaths=/var/lib/web "/srv/a b" \\
                ; a comment inside a continuation
                   /srv/c/./d
                CarryPaths=/var/cache/%p
                RewriteWildcardBinds=no
                """))
        #expect(annotation.virtualAddresses.map(\.description) == ["10.10.10.11/24", "2001:db8::11/64"])
        #expect(annotation.virtualAddresses.map(\.family) == [.ipv4, .ipv6])
        #expect(annotation.interface == "eth0")
        #expect(annotation.dnsName == "web.example.org")
        #expect(annotation.rewriteWildcardBinds == false)
        #expect(annotation.positions["CarryPaths"]?.line == 10)
        #expect(annotation.addressPositions.map(\.line) == [3, 4])
    }

    @Test func pathsKeepQuotesAndResolveDots() throws {
        let annotation = try #require(
            try read("VirtualAddress=10.0.0.1/24\nCarryPaths=/a \"/srv/a b\" \\\n; comment\n  /srv/c/./d\n"))
        #expect(annotation.carryPaths == ["/a", "/srv/a b", "/srv/c/d"])
        #expect(annotation.rewriteWildcardBinds)
        #expect(annotation.interface == nil && annotation.dnsName == nil)
    }

    @Test func duplicatePathThroughSpecifier() {
        #expect(
            errors("VirtualAddress=10.0.0.1/24\nCarryPaths=/var/lib/web\nCarryPaths=/var/lib/%p") == [
                "/u:4: CarryPaths: duplicate of /u:3 (\"/var/lib/web\"); allowed: each path once"
            ])
    }

    @Test func emptyAssignmentResets() throws {
        let annotation = try #require(
            try read("VirtualAddress=10.0.0.1/24\nInterface=eth0\nVirtualAddress=\nInterface=\nVirtualAddress=10.0.0.2/24"))
        #expect(annotation.virtualAddresses.map(\.description) == ["10.0.0.2/24"])
        #expect(annotation.interface == nil)
    }

    @Test func noSectionIsNoAnnotation() throws {
        #expect(try Annotation.read([UnitFile("[Service]\nVirtualAddress=x", path: "/u")], unit: "a.service") == nil)
    }

    @Test(arguments: [
        "10.0.0.1/31", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/24", "2001:db8::/127", "2001:db8::1/128", "fd00::5/64",
        "169.254.1.1/16",
    ]) func goodAddresses(text: String) throws {
        #expect(try VirtualAddress(text).description == text)
    }

    @Test(arguments: [
        ("10.0.0.1", "no prefix length"), ("10.0.0.1/", "no prefix length"), ("10.0.0.1/33", "prefix length out of range"),
        ("10.0.0.1/0", "prefix length out of range"), ("10.0.0.1/+8", "prefix length out of range"),
        ("::5/129", "prefix length out of range"), ("10.0.0/24", "not a numeric address"),
        ("web/24", "not a numeric address"), ("224.0.0.1/24", "multicast address"), ("ff02::1/64", "multicast address"),
        ("127.0.0.2/8", "loopback address"), ("::1/128", "loopback address"), ("0.0.0.0/24", "unspecified address"),
        ("::/64", "unspecified address"), ("10.0.0.0/24", "network address of its subnet"),
        ("10.0.0.255/24", "broadcast address of its subnet"), ("255.255.255.255/32", "broadcast address"),
        ("240.0.0.1/24", "reserved address"), ("fe80::1/64", "link-local address"),
        ("::ffff:10.0.0.1/96", "IPv4-mapped address"),
        ("2001:db8::/64", "subnet-router anycast address of its subnet"),
    ]) func badAddresses(text: String, why: String) {
        let error = #expect(throws: VirtualAddress.Invalid.self) { try VirtualAddress(text) }
        #expect(error?.why == why)
    }

    private static let host = "a host name of letters, digits and inner hyphens, as web.example.org"

    /// A bad third line, then the key, what is wrong, the value and what is allowed.
    private static let bad: [[String]] = [
        ["Colour=red", "Colour", "unknown key", "red",
            "VirtualAddress= Interface= DNSName= CarryPaths= RewriteWildcardBinds="],
        ["VirtualAddress=10.0.0.1/16", "VirtualAddress", "duplicate of /u:2", "10.0.0.1/16", "each address once"],
        ["Interface=interface-of-16b", "Interface", "interface name longer than 15 bytes", "interface-of-16b",
            "1 to 15 bytes, as eth0"],
        ["Interface=a/b", "Interface", "not an interface name", "a/b",
            "a name without '/', ':', '%' and white space, as eth0"],
        ["DNSName=-a.org", "DNSName", "bad label '-a' in DNS name", "-a.org", host],
        ["DNSName=a..org", "DNSName", "empty label in DNS name", "a..org", host],
        ["DNSName=10.0.0.1", "DNSName", "an address, not a name", "10.0.0.1", host],
        ["CarryPaths=var/lib", "CarryPaths", "relative path", "var/lib", "absolute paths separated by spaces"],
        ["CarryPaths=/a /sys/x", "CarryPaths", "path under /sys, which is the kernel's", "/sys/x",
            "files on a disk or tmpfs"],
        ["CarryPaths=/a/../b", "CarryPaths", "path with '..'", "/a/../b", "a path without '..'"],
        ["CarryPaths=//", "CarryPaths", "the whole file system", "//", "the service's own directories"],
        ["CarryPaths=\"/a", "CarryPaths", "quote or escape left open", "\"/a", "absolute paths separated by spaces"],
        ["RewriteWildcardBinds=maybe", "RewriteWildcardBinds", "not a boolean", "maybe", "yes or no"],
        ["DNSName=%H", "DNSName", "specifier %H is unknown here or differs between hosts", "%H", UnitName.specifiers],
        ["nonsense", "X-Mobility", "not an assignment", "nonsense", "Key=Value"],
        ["[X-mobility]", "X-Mobility", "misspelt section", "[X-mobility", "[X-Mobility]"],
    ]

    @Test(arguments: bad) func exactMessages(row: [String]) {
        let message = "/u:3: \(row[1]): \(row[2]) (\"\(row[3])\"); allowed: \(row[4])"
        #expect(errors("VirtualAddress=10.0.0.1/24\n" + row[0]) == [message])
    }

    @Test func allErrorsAreReported() {
        #expect(errors("VirtualAddress=10.0.0.1\nColour=red\nCarryPaths=x /proc/y").count == 4)
    }

    @Test func withoutAddress() {
        #expect(
            errors("Interface=eth0") == [
                "/u:1: X-Mobility: no VirtualAddress= in the annotation of web.service; allowed: at least one "
                    + "VirtualAddress=ADDRESS/PREFIX"
            ])
    }

    @Test func onlyServices() {
        #expect(
            errors("VirtualAddress=10.0.0.1/24", unit: "web.socket") == [
                "/u:1: X-Mobility: not a service (\"web.socket\"); allowed: a .service unit"
            ])
    }

    @Test func specifiers() throws {
        let name = try #require(UnitName("a-b@x\\x2dy-z.service"))
        #expect(try name.expand("%i|%I|%p|%n|%N|%j|%%") == "x\\x2dy-z|x-y/z|a-b|a-b@x\\x2dy-z.service|a-b@x\\x2dy-z|b|%")
        #expect(throws: SpecifierError.incomplete) { try name.expand("a%") }
        #expect(throws: SpecifierError.needsInstance) { try UnitName("a@.service")?.expand("%i") }
    }

    @Test func loadNamesUnreadableFiles() {
        let error = #expect(throws: AnnotationErrors.self) {
            try Annotation.load(fragment: "/f", dropIns: [], unit: "a.service", from: MemoryUnitFiles(files: [:]))
        }
        #expect(
            error?.description
                == "/f: X-Mobility: cannot be read: ENOENT (No such file or directory); allowed: a readable file")
    }
}
