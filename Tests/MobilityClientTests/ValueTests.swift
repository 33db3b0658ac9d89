import BusContract
import CDBus
import Testing

@testable import MobilityClient

@Suite struct ValueTests {
    /// Through a message of libdbus and back.
    private func roundTrip(_ value: BusValue) throws -> BusValue? {
        let message = try #require(dbus_message_new_method_call("a.b", "/a", "a.b", "C"))
        defer { dbus_message_unref(message) }
        var iterator = DBusMessageIter()
        dbus_message_iter_init_append(message, &iterator)
        try #require(value.append(to: &iterator))
        let signature = String(cString: try #require(dbus_message_get_signature(message)))
        #expect(signature == value.signature)
        try #require(dbus_message_iter_init(message, &iterator) != 0)
        return BusValue.read(from: &iterator)
    }

    @Test func everyTypeSurvives() throws {
        let values: [BusValue] = [
            .boolean(true), .int32(-7), .uint32(.max), .int64(.min), .uint64(.max), .double(0.5), .string("é\n"),
            .objectPath("/org/mobilityd1/migration/1"), .signature("a{sv}"), .array(of: "s", []),
            .array(of: "(st)", [.structure([.string("capture"), .uint64(3)])]),
            .structure([.boolean(false), .array(of: "u", [.uint32(1), .uint32(2)])]), .variant(.string("x")),
            .dictionary(["wait": .boolean(true), "downtime-target": .uint64(5)]), .dictionary([:]),
        ]
        for value in values { #expect(try roundTrip(value) == value) }
    }

    @Test func anInvalidPathIsNotSent() throws {
        let message = try #require(dbus_message_new_method_call("a.b", "/a", "a.b", "C"))
        defer { dbus_message_unref(message) }
        var iterator = DBusMessageIter()
        dbus_message_iter_init_append(message, &iterator)
        #expect(!BusValue.objectPath("no path").append(to: &iterator))
        #expect(!BusValue.array(of: "o", [.objectPath("/a//b")]).append(to: &iterator))
    }

    @Test func errorsKnowTheirExitStatus() {
        let known = MobilityError(name: "org.mobilityd1.NoSuchService", message: "m")
        #expect(known.code == .noSuchService && known.exitStatus == 4 && !known.remedy.isEmpty)
        #expect(MobilityError(name: "org.freedesktop.DBus.Error.ServiceUnknown", message: "m").exitStatus == 69)
        #expect(MobilityError(name: "org.freedesktop.DBus.Error.AccessDenied", message: "m").exitStatus == 77)
        #expect(MobilityError(name: "org.example.Other", message: "m").exitStatus == 1)
    }

    @Test func theTableOfFaultsIsUsable() {
        for code in FaultCode.allCases {
            #expect(FaultCode(busName: code.busName) == code)
            #expect((1...254).contains(code.exitStatus))
            #expect(code.remedy.hasSuffix("."))
        }
        #expect(FaultCode(busName: "org.mobilityd1.") == nil)
        #expect(BusName.migrationID(atPath: "/org/mobilityd1/migration/12") == 12)
        #expect(BusName.migrationID(atPath: "/org/mobilityd1/migration/012") == nil)
    }
}
